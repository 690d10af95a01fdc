"""Plotly figures of studies."""
