// Example snippets. ‸ marks the cursor. The embedded model completes those in Python, which a test asks it; it knows no
// other language, and has seen no commits.

const CURSOR = "‸";

const sources = [
  {
    title: "Python: the end of a line",
    language: "python",
    path: "statistics.py",
    code: `def mean(values):
    """Return the arithmetic mean of a list of numbers."""
    return sum(values) / len(‸


print(mean([1, 2, 3]))
`,
  },
  {
    title: "Python: the middle of a loop",
    language: "python",
    path: "words.py",
    code: `import sys


def count_words(path):
    counts = {}
    with open(path) as file:
        for line in file:
            for word in line.split():
                counts[word] = counts.get(word, 0) + 1
    return counts


if __name__ == "__main__":
    for word, count in sorted(count_words(sys.argv[1]).‸):
        print(word, count)
`,
  },
  {
    title: "Python: a decorator",
    language: "python",
    path: "timing.py",
    code: `import functools
import time


def timed(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        started = time.monotonic()
        result = function(*‸
        print(time.monotonic() - started)
        return result

    return wrapper
`,
  },
  {
    title: "Python: nothing behind the cursor",
    language: "python",
    path: "main.py",
    code: `import logging

logger = logging.‸`,
  },
  {
    title: "Python: other files as context",
    language: "python",
    path: "shop/cart.py",
    repository: "acme/shop",
    files: [
      {
        path: "shop/tax.py",
        content: 'RATES = {"books": 7, "food": 7, "other": 19}\n\n\ndef tax_of(price, kind):\n    return price * RATES[kind] / 100\n',
      },
    ],
    code: `from shop import tax


def rate_of(kind):
    return tax.RAT‸
`,
  },
  {
    title: "Python: something to refactor (for a real StarCoder)",
    language: "python",
    path: "report.py",
    task: "refactor",
    instruction: "Rename x to total",
    code: `def report(rows):
    x = 0
    for row in rows:
        x = x + row["price"]
    return x‸
`,
  },
  {
    title: "JavaScript: a function (for a real StarCoder)",
    language: "javascript",
    path: "debounce.js",
    code: `/** Calls \`action\` once, when nobody has asked for it for \`wait\` milliseconds. */
export function debounce(action, wait) {
  let timer;
  return (...args) => {
    ‸
  };
}
`,
  },
  {
    title: "Java: a method (for a real StarCoder)",
    language: "java",
    path: "Stack.java",
    code: `import java.util.ArrayList;

public class Stack<T> {
    private final ArrayList<T> items = new ArrayList<>();

    public void push(T item) {
        items.add(item);
    }

    public T pop() {
        ‸
    }
}
`,
  },
  {
    title: "Go: an error to handle (for a real StarCoder)",
    language: "go",
    path: "config.go",
    code: `package config

import (
	"encoding/json"
	"os"
)

type Config struct {
	Host string \`json:"host"\`
	Port int    \`json:"port"\`
}

func Load(path string) (*Config, error) {
	‸
}
`,
  },
  {
    title: "SQL: a query (for a real StarCoder)",
    language: "sql",
    path: "orders.sql",
    code: `-- Customers with more than ten orders, the busiest first.
SELECT customer.name, COUNT(*) AS orders
FROM customer
‸
ORDER BY orders DESC;
`,
  },
];

export const examples = sources.map(({ code, ...rest }) => {
  const cursor = code.indexOf(CURSOR);
  return { ...rest, code: code.replace(CURSOR, ""), cursor };
});
