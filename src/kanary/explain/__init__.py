"""Words for features, and scores that say whether to believe them, with or without an LLM."""
