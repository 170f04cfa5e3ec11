"""The server as people and their browsers meet it: a real Chromium records, plays and looks."""
