"""The playground: a page for people to try the model in. `deployments.api.pages.playground` serves it.

static/: the page, its own scripts (ES modules, served as they stand) and CodeMirror, bundled.
bundle/: what that bundle is made from; not part of an installed package.
terms.md: the use restrictions in our words.
"""

from pathlib import Path

STATIC = Path(__file__).parent / "static"
TERMS = Path(__file__).parent / "terms.md"
