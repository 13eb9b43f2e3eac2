"""The dialects: modules with a `DIALECT`. `deployments.ingress` mounts every module that has a `create_router`."""
