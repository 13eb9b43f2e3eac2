"""OpenAI's administration resources over this server's teams: a project is a team."""
