"""Analysis: tables of finished runs, and the statistics, claims, figures and report that are made from them."""
