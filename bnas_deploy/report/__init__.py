"""Measurements as people and programs read them: records -> rows -> tables -> a terminal, Markdown, HTML or JSON.

Rows hold numbers; only `figures` and `tables` round, and every printer prints what they made.
"""

from bnas_deploy.report.html import report_page
from bnas_deploy.report.saved import Report, read_report
from bnas_deploy.report.tables import Table, headline, tables
from bnas_deploy.report.text import answer, markdown, print_report, twin_answer

__all__ = [
    "Report",
    "Table",
    "answer",
    "headline",
    "markdown",
    "print_report",
    "read_report",
    "report_page",
    "tables",
    "twin_answer",
]
