"""What a model writes and may write: reasoning, tool calls, and text in a wanted form."""
