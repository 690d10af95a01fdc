"""The bounded simplex: regions, projections and designs. Arrays alone."""
