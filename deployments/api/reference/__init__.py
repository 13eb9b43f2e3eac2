"""The reference: the OpenAPI document as people read it, with code to copy. `/docs` shows it."""
