"""References without prompts: classifiers of the few-shot images' cached features, fitted without queries."""
