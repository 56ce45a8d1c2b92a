// The client of the service that the page comes from, with the key that the user gave.

import { CsmClient } from "./client/index.js";
import { key } from "./key.js";

export const client = new CsmClient({ key: () => key.value });
