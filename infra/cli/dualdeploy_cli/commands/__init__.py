"""The commands, one module for each subject. They declare options; what they need is imported when they run."""
