// What a reader looks for first: a term's explanation, then results and guides, then the library's own pages.
const FIRST = ["about/glossary", "about/protocol", "about/statistics"];
const PLACES = {results: 6, guides: 6, about: 6, runs: 2, api: -12};

var Scorer = {
  score: ([docname, title, anchor, descr, score]) =>
    score + (FIRST.includes(docname) ? 20 : PLACES[docname.split("/")[0]] ?? 0),
  objNameMatch: 11, objPartialMatch: 6, objPrio: {0: 15, 1: 5, 2: -5}, objPrioDefault: 0,
  title: 15, partialTitle: 7, term: 5, partialTerm: 2,
};
