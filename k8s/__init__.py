"""Manifests for KubeRay, and what generates the parts of them that other files decide."""
