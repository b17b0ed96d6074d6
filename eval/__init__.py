"""Command lines, and the runner that feeds the protocols. No maths lives here."""
