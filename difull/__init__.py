"""Controlled grids: settings in which impossible attribution is known (Rao, Böhle, Schiele)."""
