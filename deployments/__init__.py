"""StarCoder on Ray Serve: the ingress with its dialects, replicas, routing, settings, and the command."""
