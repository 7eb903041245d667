"""Figures as plain data, made from results and drawn by matplotlib or plotly."""
