"""Extraction and its speed, measured beside llama.cpp: `model` runs, `benchmark` measures, `dashboard` shows."""
