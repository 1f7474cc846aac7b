"""One self-contained HTML page about a run or a sweep: no network, readable on a phone, printable."""
