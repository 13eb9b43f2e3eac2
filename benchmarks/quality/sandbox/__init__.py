"""Where generated code runs: it is hostile until the opposite is shown, and nobody shows it."""
