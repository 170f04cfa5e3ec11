from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("audio", "0006_clock_reading")]

    operations = [migrations.RenameField(model_name="recording", old_name="carry", new_name="checkpoint")]
