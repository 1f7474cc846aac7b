"""References without prompts: what the cached features of the few-shot images give, with no query."""
