"""HTTP around every dialect: middleware, the record of a request, and the way to a replica."""
