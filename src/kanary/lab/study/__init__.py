"""Studies: many SAEs trained alike, compared by a rule that was written down before, re-run and resumed by one command."""
