#!/usr/bin/env bash
# Finds wording that STYLE.md rules out: tools/prose.sh [PATH...]
#
# Checks comments, documentation, messages and documents alike, in the given files and folders, by default in all of
# the repository's. Prints FILE:LINE: FOUND -> BETTER and fails if there is a finding. Spelling is left to `typos`.
set -euo pipefail
export LC_ALL=C
cd "$(dirname "$0")/.."

# One rule per line: a Perl regular expression, a tab, what to write instead.
per='core|thread|lane|model|cohort|shard|cell|channel|layer|tensor|parameter|state|epoch|step|sample|cycle|block|multiprocessor|launch|line|file|path|process|worker'
counted='one|two|bytes?|numbers?|values?|lines?|rows?|columns?|objects?|draws?|words?|vectors?|models?|states?|samples?|seconds|ns|ms|threads?|registers|blocks?|times|steps?|jobs?|shards?|members?|reports?|kB|MB|GB|FLOP|multiply-adds|permutation|order'
rules=$(
    cat <<RULES
(?<!by )(?<!to )\b($counted) an? ($per)\b(?! (time|or|has|is|was|can|must|may|needs|keeps|holds)\b)	"per": one per core, bytes per model
\bso many\b(?![^.;]*\bthat\b)	"the given number of", or the number itself
\bthe gate\b	CI
\b(is|are|was|were) (not )?to be had\b	is (not) available
\b(is|are) (not|nowhere) to be found\b	was not found
\b(came|comes?) of it\b	name the result
\b(is|are|was|were) (said|told)\b	is reported, is printed, is passed
\b(tells|told|telling) of\b	describes, reports, predicts
\bdrown(s|ed|ing)?\b	is dominated by noise; is pruned
\bstrangers?\b	untrusted, unknown, foreign
\bnobody('s)?\b	name the subject, or the passive: "is not recorded"
\bthere are (\d+|{\w*}) of (it|them|these|those)\b	"found N ..."
\b(\d+|{[^}]*}) of them\b(?! (is|are|was|were)\b)	repeat the noun: "3 epochs"
\banew\b	again; rebuilt, redrawn, repacked
\bin the making\b	unfinished, being built
\bat work on\b	using; "is in use by"
\b(go|goes|going|went) on\b	continues, resumes
\ball the same\b	anyway, still
\bto the (bit|byte)\b	bit-identical, byte-identical
\bother bits\b	different results; bit mismatch
\b(is|are) there twice\b	occurs twice; duplicate
\b(?<!amend)(?<!recom)mend(s|ed|ing)?\b	fix, repair
\bpass(es|ed|ing)? over\b(?! the (batch|data|samples|dataset|file|network))	ignore, skip
\bso it is (for|with)\b	likewise for
\bfalls? silent\b	stalls
\blest\b	so that ... not
\b(whence|whither|thither|hither|hitherto|thereof|therein|wherein)\b	modern English
(?<!there )\bis no (archive|file|picture|folder|zoo|address|size|unit|model|volume|checksum|column|directory|tensor|report)\b	is not a(n)
^\s*(//[/!]?|#|"""|\*)\s*\KMost (bytes|characters|models|threads|parameters|values|rows|pixels|samples|files|classes|blocks|entries)\b	"Maximum number of"
\bmade from (other|different|another) inputs\b|\bmade from another (manifest|dataset)\b	"was built from different inputs; differing fields: ..."
RULES
)

if (($#)); then
    mapfile -t files < <(git ls-files -co --exclude-standard -- "$@")
else
    mapfile -t files < <(git ls-files -co --exclude-standard)
fi
mapfile -t files < <(printf '%s\n' "${files[@]}" |
    grep -E '(\.(md|rs|py|toml|sh|cu|h|c|yaml)|Snakefile|Makefile|\.ci/run)$' |
    grep -vE '^(STYLE\.md|tools/prose\.sh|fuzz/(seeds|corpus|artifacts)/.*)$' |
    while read -r file; do [ ! -f "$file" ] || echo "$file"; done)
((${#files[@]})) || { echo "no files to check: $*" >&2; exit 2; }

found=0
while IFS=$'\t' read -r pattern better; do
    # grep: 0 found, 1 not found, 2 an error such as a malformed rule.
    hits=$(grep -HnoPi -e "$pattern" -- "${files[@]}") || [ $? = 1 ]
    [ -z "$hits" ] || while IFS=: read -r file line text; do
        echo "$file:$line: $text -> $better"
        found=1
    done <<<"$hits"
done <<<"$rules"
((found == 0)) || { echo "wording that STYLE.md rules out, see above" >&2; exit 1; }
