"""The Dockerfile, the Compose file and the Caddyfile: read, checked, and run without a container engine."""
