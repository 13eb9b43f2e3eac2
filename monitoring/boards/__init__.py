"""The Grafana boards as code: `make boards` writes `monitoring/dashboards/*.json`.

`service`, `engine` and `cluster` say what each board shows; `render` makes Grafana's JSON of it. Needs the extra `dev`.
"""
