// Package picture draws a lineage: as a tree for a terminal, as an SVG file,
// and as DOT and Mermaid text for other programs to draw.
//
// All of them draw the same graph: a box for each resource, a box of another
// shape for each step, arrows in the direction in which things were made. What
// is nothing but the tool of a step, or another digest of the same bytes, is
// not a box of its own.
//
// Charts are pictures of measurements, for a page.
//
// Everything that is drawn comes from statements that anybody may have
// written. Names are escaped for each format, and characters that would move a
// terminal's cursor or turn the direction of text are shown as codes.
package picture
