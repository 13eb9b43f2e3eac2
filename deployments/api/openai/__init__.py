"""OpenAI's dialect: completions, chat, models, and errors in its form."""
