// The words of a query and what each did for a photograph.

const LIT = 0.55;

// Each typed word with its share of an explanation, in order; words that the model does not read have none.
export function sharesOfWords(explanation, text) {
  if (!explanation) return [];
  const own = explanation.shares.filter((share) => share.part === text.trim() && share.word !== null);
  let next = 0;
  return text.trim().split(/\s+/).filter(Boolean).map((word) => {
    const share = own[next]?.word === word ? own[next++] : null;
    return { word, share };
  });
}

// What answers a word in each of these photographs: a box where it adds at least LIT of what it adds to any of them.
export function answersTo(items, text, place) {
  const share = (item) => sharesOfWords(item.explanation, text)[place]?.share;
  const most = Math.max(...items.map((item) => share(item)?.contribution ?? 0));
  return (item) => {
    const found = share(item);
    return found && found.contribution >= LIT * most ? found.box : null;
  };
}

// Every share that a person can read, emphasised and unwanted words too. A word that was made to weigh more adds twice; where
// both times it chose the same region, that is one line.
export function wordShares(explanation) {
  const lines = [];
  for (const share of explanation.shares.filter((share) => share.word !== null)) {
    const same = lines.find((line) => line.word === share.word && line.region === share.region && line.part !== share.part);
    if (same) same.contribution += share.contribution;
    else lines.push({ ...share });
  }
  return lines;
}

// What the regions of a query picture found, added up by the region found; the strongest first.
export function regionShares(explanation, most = 6) {
  const sums = new Map();
  for (const share of explanation.shares.filter((share) => share.word === null)) {
    const sum = sums.get(share.region) || { region: share.region, box: share.box, contribution: 0 };
    sum.contribution += share.contribution;
    sums.set(share.region, sum);
  }
  return [...sums.values()].sort((a, b) => b.contribution - a.contribution).slice(0, most);
}
