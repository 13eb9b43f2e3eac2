"""The dialects. Every module below that has a `create_router` is mounted by `deployments.ingress`."""
