"""The status page in a real Chromium: what a person sees."""
