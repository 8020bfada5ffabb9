"""Exported networks as files: names, metadata, checksums, and third-party models that become artifacts."""
