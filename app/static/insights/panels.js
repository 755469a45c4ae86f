// The panels of the run's aggregates, by column, in their order.
import { Histogram } from "./histogram.js";
import { Overlap, Stops } from "./lines.js";
import { Positions } from "./positions.js";
import { Quadrants } from "./quadrants.js";
import { Classes, Correctness, Strings } from "./shares.js";

export const COLUMNS = [
  [Positions, Classes, Histogram, Overlap, Stops],
  [Quadrants, Strings, Correctness],
];
