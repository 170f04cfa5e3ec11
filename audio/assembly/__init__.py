"""Assembly: turn the chunks of a session into its recording."""
