"""Operations of a run, counted, and their energy."""
