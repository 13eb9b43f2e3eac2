"""Between replicas and nodes: routing, autoscaling, succession, and what processes of a node share."""
