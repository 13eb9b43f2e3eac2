"""Rules that end a completion of code where its reader would: each looks at the text only, character by character.

`rule.Rule` is their interface, `pipeline.RulePipeline` runs them together.
"""
