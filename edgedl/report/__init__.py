"""Measurements as a terminal table, report.json and report.html."""
