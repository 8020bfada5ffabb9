"""Finds images, decodes them within limits, resizes and normalises them; reads cameras, videos and watched folders."""
