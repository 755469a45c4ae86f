// The panels of the run's aggregates, by column, in their order.
import { Histogram } from "./insights_histogram.js";
import { Overlap, Stops } from "./insights_lines.js";
import { Quadrants } from "./insights_quadrants.js";
import { Positions } from "./insights_positions.js";
import { Classes, Correctness, Strings } from "./insights_shares.js";

export const COLUMNS = [[Positions, Classes, Histogram, Overlap, Stops], [Quadrants, Strings, Correctness]];
