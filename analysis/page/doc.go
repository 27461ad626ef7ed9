// Package page draws what the analysis of a guest found as one HTML page that needs no network: the series, its cycles, the folded
// profile with the window that was chosen, and what a migration would cost by when it starts.
package page
