"""Measurements as people and programs read them: records -> rows -> tables -> a terminal, Markdown, HTML or JSON.

Rows hold numbers; only `figures` and `tables` round, and every printer prints what they made.
"""

from bnas_deploy.report.comparison import Comparison, compare
from bnas_deploy.report.comparison_views import comparison_page, comparison_tables
from bnas_deploy.report.headline import headline
from bnas_deploy.report.html import report_page
from bnas_deploy.report.saved import Report, parse_report, read_report
from bnas_deploy.report.table import Table
from bnas_deploy.report.tables import tables
from bnas_deploy.report.text import answer, comparison_markdown, markdown, print_comparison, print_report, twin_answer

__all__ = [
    "Comparison",
    "Report",
    "Table",
    "answer",
    "compare",
    "comparison_markdown",
    "comparison_page",
    "comparison_tables",
    "headline",
    "markdown",
    "parse_report",
    "print_comparison",
    "print_report",
    "read_report",
    "report_page",
    "tables",
    "twin_answer",
]
