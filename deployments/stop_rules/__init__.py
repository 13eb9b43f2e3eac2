"""Rules that end a completion of code where its reader would.

A rule is one module with a `RULE` (`rule.StopRule`), which says all that is to be known of it; `registry.stop_rules`
finds them. What looks at the text is a `watcher.Watcher`, character by character; `pipeline.RulePipeline` runs them.
"""
