# A volume without any model begins with the image's, as Docker's volumes do: renamed into place, so that several pods may do
# it at once. Once there is a model nothing is written.
ls /volume/*/*/manifest.json >/dev/null 2>&1 && exit 0
for model in /models/*/; do
  name=$(basename "$model")
  copy=$(mktemp -d "/volume/.publishing-$name-XXXXXX")
  cp -R "$model." "$copy"
  chmod 755 "$copy"
  mv -T "$copy" "/volume/$name" || rm -r "$copy"
done
