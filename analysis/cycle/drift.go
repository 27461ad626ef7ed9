package cycle

// drift is by how much the period grows per period; 0 if that cannot be told from chance.
func (c chosen) drift() float64 { return 0 }
