"""Commands for administrators of teams."""
