"""Images on their way in: found, decoded within limits, resized and normalised; from a camera or a folder that grows too."""
