"""The Gaussian process around MDE: what it looks at, its kernel and priors, how it is fitted."""
