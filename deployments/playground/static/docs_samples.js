// A plugin of Swagger UI: a route's examples as code, above its parameters.

import { announce } from "./dom.js";

const LANGUAGE = "starcoder-docs-language";

/** One of `languages`: the first one where none is remembered. */
function remembered(languages) {
  let language = null;
  try { language = localStorage.getItem(LANGUAGE); } catch { /* storage is forbidden */ }
  return languages.includes(language) ? language : languages[0];
}

function remember(language) {
  try {
    localStorage.setItem(LANGUAGE, language);
  } catch { /* then only for this route */ }
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    announce("Copied.");
  } catch {
    announce("The browser does not let this page copy: select the text.");
  }
}

export function codeSamples({ React }) {
  const make = React.createElement;

  /** samples: as `x-codeSamples` has them. */
  function Samples({ samples }) {
    const titles = [...new Set(samples.map((sample) => sample["x-example"]))];
    const languages = [...new Set(samples.map(({ label }) => label))];
    const [title, setTitle] = React.useState(titles[0]);
    const [language, setLanguage] = React.useState(remembered(languages));
    const { source } = samples.find((sample) => sample["x-example"] === title && sample.label === language);
    const choose = (chosen) => (setLanguage(chosen), remember(chosen));
    const button = (name) => make("button", { key: name, type: "button", "aria-pressed": name === language, onClick: () => choose(name) }, name);
    const option = (name) => make("option", { key: name }, name);
    const which = make("select", { value: title, "aria-label": "Example", onChange: ({ target }) => setTitle(target.value) }, titles.map(option));
    return make(
      "section",
      { className: "samples", "aria-label": "Example as code" },
      make(
        "div",
        { className: "samples-bar" },
        titles.length > 1 ? which : make("strong", null, title),
        make("span", { className: "spacer" }),
        make("div", { className: "languages", role: "group", "aria-label": "Language" }, languages.map(button)),
        make("button", { type: "button", onClick: () => copy(source) }, "Copy"),
      ),
      make("pre", { tabIndex: 0 }, make("code", null, source)),
    );
  }

  const withSamples = (Parameters) => (props) => {
    const operation = props.specSelectors.specJson().getIn(["paths", ...props.pathMethod]);
    const samples = operation.get("x-codeSamples").toJS();
    return make(React.Fragment, null, make(Samples, { samples }), make(Parameters, props));
  };

  return { wrapComponents: { parameters: withSamples } };
}
