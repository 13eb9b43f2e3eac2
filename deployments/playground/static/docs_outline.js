// A plugin of Swagger UI: what its page lacks for those who listen to it, or use the keyboard.

export function outline({ React }) {
  const make = React.createElement;

  const About = () => ({ specSelectors, getComponent }) => {
    const info = specSelectors.info();
    return make(
      "section",
      { className: "about", "aria-labelledby": "about" },
      make("h2", { id: "about" }, `${info.get("title")} ${info.get("version")}`),
      make(getComponent("Markdown"), { source: info.get("description") }),
    );
  };
  const Body = (TextArea) => (props) => make(TextArea, { ...props, "aria-label": "Body" });
  const Labelled = (ExamplesSelect) => (props) => make("label", null, make(ExamplesSelect, props));
  const Scrolled = () => ({ className = "", children }) => make("pre", { className: `microlight ${className}`, tabIndex: 0 }, children);

  return { wrapComponents: { InfoContainer: About, TextArea: Body, ExamplesSelect: Labelled, PlainTextViewer: Scrolled } };
}
