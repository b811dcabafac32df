"""What touches a host: one file a host, and the version shims."""
